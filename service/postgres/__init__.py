"""The only package that talks to Postgres: runs the named statements of `sql` and returns values of `service.model`.

A module `x.py` that runs statements has them in `sql/queries/x.sql`.
"""
