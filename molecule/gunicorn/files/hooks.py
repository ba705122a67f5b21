"""A function that Gunicorn calls by its name."""


def post_fork(server, worker):
    """Say that it was called."""
    server.log.info("forked by %s", server.pid)
