"""The command line: `app` is all of it, the other rooms are its groups of commands and what they share."""
