# Two stages: the first installs the package into a virtual environment, the second contains only that environment.
# Both must use the same base, because the environment's `python` is a link to the base's own. A tag can be moved; to build
# on exactly one image, give its digest: --build-arg BASE_DIGEST=sha256:…
ARG BASE_DIGEST=""

FROM python:3.13-slim-trixie${BASE_DIGEST:+@$BASE_DIGEST} AS build
WORKDIR /build
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY requirements requirements
COPY sql sql
COPY service service
# Optional secrets for a package mirror: its settings and certificates, without leaving them in a layer.
#   --secret id=pip.conf,src=pip.conf --secret id=ca.pem,src=ca.pem
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    python -m venv --without-pip /opt/build \
    && python -m venv --without-pip /opt/contact-exports \
    && pip --python /opt/build/bin/python install --no-cache-dir --require-hashes -r requirements/build.txt \
    && pip --python /opt/build/bin/python wheel --no-deps --no-build-isolation --wheel-dir /opt/build/wheels . \
    && pip --python /opt/contact-exports/bin/python install --no-cache-dir --require-hashes \
        -r requirements/service.txt -r requirements/redis.txt -r requirements/traces.txt \
    && pip --python /opt/contact-exports/bin/python install --no-cache-dir --no-deps /opt/build/wheels/*.whl

FROM python:3.13-slim-trixie${BASE_DIGEST:+@$BASE_DIGEST}
COPY --from=build /opt/contact-exports /opt/contact-exports
# A new named volume gets the owner of this directory. The id is numeric, so that a runtime can check that it is not root.
RUN install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/contact-exports
ENV PATH=/opt/contact-exports/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8080
USER 10001:10001
WORKDIR /var/lib/contact-exports
VOLUME /var/lib/contact-exports
EXPOSE 8080
STOPSIGNAL SIGTERM
# Liveness, not readiness: restarting the container does not help while the database is unreachable.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["contact-exports", "health"]
ENTRYPOINT ["contact-exports"]
CMD ["serve"]
