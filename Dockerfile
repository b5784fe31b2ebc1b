# The registry as a small container: no root, no shell needed, no pip, nothing written outside of /data and /tmp.
# docs/deployment-container.md is the guide. For a base fixed to the byte: --build-arg BASE=docker.io/library/python:3.13-slim-bookworm@sha256:…
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
# busybox becomes a wget, for health checks of your own: under the name of one of its programs it is that program.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends busybox \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /opt/nora
COPY requirements.txt constraints.txt ./
RUN /opt/nora/bin/pip install --no-cache-dir --requirement requirements.txt --constraint constraints.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY noraflask noraflask
RUN /opt/nora/bin/pip install --no-cache-dir --no-deps . \
    && /opt/nora/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="noraflask" \
      org.opencontainers.image.description="Self-hosted artifact registry" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 nora \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nora \
    && install --directory --owner=nora --group=nora --mode=0750 /data
COPY --from=build /bin/busybox /usr/local/bin/wget
COPY --from=build /opt/nora /opt/nora
# Bytecode was compiled by the build; counts for /metrics lie in a folder that the server makes for itself alone; else they would be in /dev/shm. Relative paths of the configuration, such as users.htpasswd, begin at /data.
ENV PATH=/opt/nora/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    NORA_HOST=0.0.0.0 \
    NORA_STORAGE_PATH=/data/storage \
    NORA_STATE_PATH=/data/state \
    NORA_STAGING_PATH=/tmp \
    PROMETHEUS_MULTIPROC_DIR=/tmp/nora-metrics
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 4000
# The master is process 1: it forwards signals and collects children, so no init is needed. SIGHUP reloads, SIGTERM lets running requests finish.
STOPSIGNAL SIGTERM
# It reads what the server reads, so it follows host and port of the variables and of the file that NORA_CONFIG_PATH names.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["nora", "healthcheck", "--timeout-secs", "4"]
ENTRYPOINT ["nora"]
CMD ["serve"]
