# One image for every process; docker-compose.yml says which.
FROM python:3.11-slim
RUN useradd --create-home clearlane
WORKDIR /app
COPY requirements.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY ledger ledger
COPY scheduler scheduler
COPY tasks tasks
COPY workers workers
COPY beat_schedule.py ./
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
USER clearlane
CMD ["clearlane", "--help"]
