"""`python -m cluster.cli`: the command line without its script."""

from cluster.cli.app import main

main()
