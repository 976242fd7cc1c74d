"""Self-hosted service that exports contacts from Postgres to gzipped NDJSON on S3.

The map. Two flows cross the package: a request (web → exports → postgres), and an export (exports → postgres and storage).

    __main__         the command line
    commands/        what operators and consumers type: running, administration, environment, export/
    demo             the demonstration
    process/         the running process: run, build, resources, startup, health, loop_lag
    web/             HTTP: routes, app, server, connections, gate, middleware, problems, …
    admin/           the operator's port: app, guard, sessions, login, exports, spaces, fields, situation, plots, rendering,
                     errors
    metrics/         what Prometheus reads: scrape, instruments, transitions, store_calls, database_figures, last_known
    exports/         use_cases (the API's), acts (of operators), windows, waiting, runner, attempt, lease, rescue, leftovers,
                     retention, periodic, priority
      stream/        rows to a file: lines, compress, parts, file
    contacts/        use_cases (the API's), pages
    access           who calls, and what they may do
    postgres/        everything that speaks to Postgres
    storage/         everything that speaks to a store: directory/ and s3/
    events           what happens to exports; the log and the metrics listen
    embedded/        a Postgres for the demonstration, for `serve` without settings, and for tests
    client/          the consumer's client: api, transport, fetch, target, …
    model, errors,
    failures         the vocabulary
    settings, database_urls, listen_address, logs, failpoints, exhaustion

Reading order: model → exports/use_cases → exports/runner → exports/attempt → exports/lease → exports/stream/file →
postgres/claims with sql/migrations/main/0001_service.sql → web/routes → process/run.
"""
