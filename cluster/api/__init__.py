"""The service over HTTP: the door, the routes, what they answer, and what they read it from."""
