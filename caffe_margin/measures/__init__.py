"""What the page of ``compare --report`` shows, measured: a question a module, and no pictures.

`study` asks them all on one batch.
"""
