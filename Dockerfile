# One image for every process; docker-compose.yml says which. Run it with an init (`init: true`,
# `docker run --init`), read-only, with a writable /tmp.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /app
COPY requirements.lock ./
RUN /app/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md beat_schedule.py ./
COPY ledger ledger
COPY scheduler scheduler
COPY tasks tasks
COPY workers workers
RUN /app/bin/pip install --no-deps --no-build-isolation . && /app/bin/python -m compileall -q /app/lib

FROM python:3.11-slim
# A number: engines that insist on a user that is not root do not look into /etc/passwd.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp clearlane \
    # A volume gets the owner of what it is mounted over.
    && install --directory --owner=10001 --group=10001 --mode=700 /keys /state
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /tmp
USER 10001:10001
CMD ["clearlane", "--help"]
