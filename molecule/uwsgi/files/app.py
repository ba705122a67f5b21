"""The application of the README's command line, whose callable is app."""

from echo import make_app

app = make_app(7)
