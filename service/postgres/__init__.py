"""The only package that talks to Postgres. Named statements of `sql` go in, values of `service.model` come out."""
