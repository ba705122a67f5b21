"""Middleware that a release brings along."""


def wrap(application):
    """Put a stamp on each answer."""

    def stamped(environ, start_response):
        """Call the application, and say whose request it was."""

        def start(status, headers, *error):
            """Add a header."""
            return start_response(status, [*headers, ("X-Stamped", environ["REMOTE_ADDR"])], *error)

        return application(environ, start)

    return stamped
