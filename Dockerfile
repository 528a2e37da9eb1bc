# A validator, without torch. Build: docker build -t concilium .
FROM python:3.11-slim AS build

WORKDIR /source
RUN python -m venv /venv
COPY LICENSE README.md constraints.txt pyproject.toml setup.cfg ./
COPY consensus consensus
COPY fl fl
COPY node node
COPY vm vm
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[node]"

FROM python:3.11-slim

# A fixed user id, so that the owner of a mounted home can be set from outside.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin concilium
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1

USER concilium
WORKDIR /home/concilium
# Logs go to the standard output; the chain and the journal live in the mounted home.
ENTRYPOINT ["concilium"]
CMD ["--help"]
