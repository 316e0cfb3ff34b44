"""Jobs over HTTP, the dashboard and the command line."""
