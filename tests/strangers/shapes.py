"""Small stacks of the shapes that people have, in words of our own: NAME and PORT stand for those of a test.

Other people's databases are those of Debian's packages, begun as theirs are; further images are stood in for by one
that listens where theirs would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DATABASES", "SHAPES", "STAND_IN", "Shape"]

SERVER = """\
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
words = sys.argv[1:] or ["serve"]
if words[0] == "migrate":
    sys.exit(0)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ.get("GREETING", "none").encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Page).serve_forever()
"""

DOCKERFILE = 'FROM python:3.11-slim-bookworm\nCOPY --chmod=0755 server.py /srv/\nCMD ["python3", "/srv/server.py"]\n'
"""Of the server above, beside it."""

STAND_IN = """\
FROM python:3.11-slim-bookworm
RUN printf '%s\\n' 'import os, signal, socket, sys' \\
    'signal.signal(signal.SIGTERM, lambda *_: os._exit(0))' \\
    'server = socket.create_server(("", int(os.environ.get("LISTEN", "5432"))))' \\
    'while True: server.accept()[0].close()' > /listen.py
CMD ["python3", "/listen.py"]
"""

DATABASES: Mapping[str, str] = {
    "postgres": 'ENTRYPOINT ["start-postgres"]\nCMD []\n',
    "mariadb": 'ENTRYPOINT ["start-mariadb"]\nCMD []\n',
    "redis": 'CMD ["redis-server", "--dir", "/data", "--protected-mode", "no"]\n',
}
"""Repository -> what its image begins, as lines of a Dockerfile."""

WELL = (
    "healthcheck: {test: [CMD, python3, -ISc, \"import socket; socket.create_connection(('127.0.0.1', ASKED))\"],"
    " interval: 1s, timeout: 20s, retries: 60}"
)


@dataclass(frozen=True)
class Shape:
    """One stack.

    Attributes:
        files: of the repository.
        answer: what its web server says.
        services: that run once it is up.
        components: that `conche init` proposes for backups, with their drivers.
        folder: where somebody would call `docker compose up`.
        mounted: folder of the repository whose content the services write.
    """

    files: Mapping[str, str]
    answer: str
    services: frozenset[str]
    components: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    mounted: str = ""


DATABASE = Shape(
    {
        "compose.yaml": f"""\
services:
  db:
    image: NAME/postgres:16
    environment: {{POSTGRES_USER: app, POSTGRES_PASSWORD: "${{DB_PASSWORD:?write it into .env}}"}}
    volumes: ["pgdata:/var/lib/postgresql/data"]
    {WELL.replace("ASKED", "5432")}
  queue:
    image: NAME/redis:7-alpine
    command: [redis-server, --appendonly, "yes", --dir, /data, --protected-mode, "no"]
    volumes: ["queue:/data"]
    healthcheck: {{test: [CMD, redis-cli, ping], interval: 1s, timeout: 5s, retries: 60}}
  migrate:
    build: .
    command: [python3, /srv/server.py, migrate]
    depends_on: {{db: {{condition: service_healthy}}}}
  web:
    build: .
    ports: ["127.0.0.1:PORT:8000"]
    environment: {{GREETING: "postgres://app:${{DB_PASSWORD}}@db/app"}}
    depends_on:
      db: {{condition: service_healthy}}
      migrate: {{condition: service_completed_successfully}}
    {WELL.replace("ASKED", "8000")}
  worker:
    build: .
    depends_on: {{migrate: {{condition: service_completed_successfully}}, queue: {{condition: service_healthy}}}}
    restart: unless-stopped
volumes: {{pgdata: , queue: }}
""",
        ".env": "DB_PASSWORD=swordfish99\n",
        "Dockerfile": DOCKERFILE,
        "server.py": SERVER,
    },
    answer="postgres://app:swordfish99@db/app",
    services=frozenset({"db", "web", "worker", "queue"}),
    components={"db": "postgres", "queue": "redis"},
)

MONOREPO = Shape(
    {
        "docker-compose.yml": """\
services:
  api:
    build:
      context: .
      dockerfile: api/Dockerfile
      target: run
      args: {WORDS: two words, BASE: python:3.11-slim-bookworm}
      labels: {org.example.team: api}
    ports: ["127.0.0.1:PORT:8000"]
  site:
    image: NAME/site:local
    build: {context: site, dockerfile: site.Dockerfile, network: none}
    environment: {LISTEN: "80"}
""",
        "api/Dockerfile": """\
ARG BASE=nowhere.example.org/base:1
FROM nowhere.example.org/tools:1 AS tests
RUN false
FROM ${BASE} AS run
ARG WORDS=nothing
ENV GREETING=${WORDS}
COPY api/server.py /srv/
CMD ["python3", "/srv/server.py"]
FROM run AS debug
ENV GREETING=debug
""",
        "api/server.py": SERVER,
        "site/site.Dockerfile": STAND_IN,
    },
    answer="two words",
    services=frozenset({"api", "site"}),
)

INCLUDED = Shape(
    {
        "compose.yaml": """\
include: [data/compose.yaml]
x-common: &common
  restart: unless-stopped
  logging: {driver: json-file, options: {max-size: 1m}}
  environment: &env {LANG: C.UTF-8}
services:
  web:
    <<: *common
    build: {context: web}
    ports: ["127.0.0.1:PORT:8000"]
    environment: {<<: *env, GREETING: "${GREETING:-hello $$1}"}
    depends_on: [cache]
    extends: {file: base.yaml, service: base}
  shell:
    <<: *common
    image: NAME/tools:1
    profiles: [debug]
""",
        "base.yaml": "services: {base: {cap_drop: [ALL], stop_grace_period: 5s}}\n",
        "data/compose.yaml": """\
services:
  cache:
    image: NAME/redis:7
    volumes: ["kept:/data"]
volumes: {kept: {name: NAME-kept}}
""",
        "web/Dockerfile": DOCKERFILE,
        "web/server.py": SERVER,
    },
    answer="hello $1",
    services=frozenset({"web", "cache"}),
    components={"cache": "redis"},
)

OVERRIDDEN = Shape(
    {
        "docker-compose.yml": """\
services:
  web:
    build: ./web
    environment: {GREETING: production}
    expose: ["8000"]
    restart: always
""",
        "docker-compose.override.yml": """\
services:
  web:
    build: {target: dev}
    environment: {GREETING: development}
    ports: ["127.0.0.1:PORT:8000"]
    volumes: ["./web:/srv"]
    restart: !reset null
""",
        "web/Dockerfile": """\
FROM python:3.11-slim-bookworm AS dev
CMD ["python3", "/srv/server.py"]
FROM dev
COPY server.py /srv/
""",
        "web/server.py": SERVER,
    },
    answer="development",
    services=frozenset({"web"}),
)

TUNNELLED = Shape(
    {
        "compose.yaml": """\
services:
  vpn:
    image: NAME/tools:1
    cap_add: [NET_ADMIN]
    ports: ["127.0.0.1:PORT:8000"]
    environment: {LISTEN: "9999"}
    sysctls: {net.ipv4.ip_unprivileged_port_start: "0"}
    labels: {org.example.role: gateway}
    healthcheck: {test: [CMD, "true"], interval: 1s}
  downloader:
    build:
      context: .
      dockerfile_inline: |
        FROM python:3.11-slim-bookworm
        CMD ["python3", "/srv/server.py"]
    network_mode: service:vpn
    depends_on: {vpn: {condition: service_healthy}}
    env_file: [{path: app.env}, {path: local.env, required: false}]
    volumes: ["downloads:/downloads", "./server.py:/srv/server.py:ro"]
    tmpfs: [/tmp]
    deploy: {resources: {limits: {memory: 64m}}}
volumes: {downloads: {}}
""",
        "app.env": "# of the application\nGREETING='through the tunnel'\nPUID=1000\n",
        "server.py": SERVER,
    },
    answer="through the tunnel",
    services=frozenset({"vpn", "downloader"}),
    components={"downloads": "volume"},
)

FRONTED = Shape(
    {
        "docker-compose.yaml": """\
name: NAME
services:
  front:
    image: NAME/tools:1
    environment: {LISTEN: "80"}
    configs: [{source: front, target: /etc/front.conf}]
    volumes: ["./front/certs:/certs:ro", "front:/data"]
    depends_on: {api: {condition: service_started, restart: true}}
    networks: {edge: {aliases: [www.example.org]}}
  site:
    build: {context: ./site, args: [GREETING]}
    ports: [{target: 8000, published: "PORT", host_ip: 127.0.0.1}]
    develop: {watch: [{action: rebuild, path: ./site}]}
    networks: [edge]
  api:
    build: ./site
    deploy: {replicas: 2}
    secrets: [token]
    networks: [edge, inside]
  off:
    image: NAME/tools:1
    scale: 0
configs:
  front: {content: "host=${SITE_HOST:-localhost}\\n"}
secrets:
  token: {environment: API_TOKEN}
networks: {edge: , inside: {internal: true}}
volumes: {front: }
""",
        ".env": "API_TOKEN='swordfish $$99'\nSITE_HOST=www.${DOMAIN:-example.org}\nGREETING=\"it's ${SITE_HOST}\"\n",
        "front/certs/README": "certificates come here\n",
        "site/Dockerfile": """\
FROM python:3.11-slim-bookworm
ARG GREETING
ENV GREETING=${GREETING}
COPY server.py /srv/
CMD ["python3", "/srv/server.py"]
""",
        "site/server.py": SERVER,
    },
    answer="it's www.example.org",
    services=frozenset({"front", "site", "api"}),
    components={"front": "volume"},
)

MERGED_BY_HAND = Shape(
    {
        "docker-compose.yml": """\
services:
  influxdb:
    image: NAME/influxdb:2.7
    container_name: NAME-storage
    restart: unless-stopped
    environment:
      - DOCKER_INFLUXDB_INIT_MODE=setup
      - DOCKER_INFLUXDB_INIT_ORG=chocolate
      - DOCKER_INFLUXDB_INIT_BUCKET=energy
      - DOCKER_INFLUXDB_INIT_PASSWORD=${influxdb_admin_password}
      - DOCKER_INFLUXDB_INIT_ADMIN_TOKEN=${influxdb_token}
    volumes:
      - ./docker/services/influxdb/data:/var/lib/influxdb2
      - ./docker/services/influxdb/config:/etc/influxdb2
    networks: [backend]
    healthcheck: {test: [CMD, influx, ping], interval: 1s, timeout: 20s, retries: 60}
  app:
    build: {context: ., dockerfile: docker/app.Dockerfile}
    container_name: NAME-brain
    command: [sh, -c, 'GREETING="$$influxdb_token $$ree_api_token" exec python3 /app/server.py']
    environment:
      - influxdb_token
      - ree_api_token
      - AEMET_API_KEY=${aemet_api_key:-}
    volumes: ["./models:/models"]
    depends_on: {influxdb: {condition: service_healthy}}
    networks: [backend]
networks: {backend: }
""",
        "docker-compose.override.yml": """\
services:
  app:
    environment: [RELOAD=1]
    volumes: ["./src/app:/app:ro"]
    ports: ["127.0.0.1:PORT:8000"]
  sidecar:
    build: {context: docker, dockerfile: sidecar.Dockerfile}
    hostname: NAME-node
    cap_add: [NET_ADMIN]
    environment: ["TS_AUTHKEY=${tailscale_authkey}", TS_STATE_DIR=/var/lib/tailscale]
    volumes: ["tailscale:/var/lib/tailscale"]
    depends_on: [app]
    networks: [backend]
volumes: {tailscale: }
""",
        # As `sops --decrypt secrets.enc.yaml > .env` writes it.
        ".env": 'influxdb_admin_password: "swordfish 99"\ninfluxdb_token: tok-12345\nree_api_token: ree-678\n'
        "tailscale_authkey: tskey-auth-1\n",
        "docker/app.Dockerfile": "FROM python:3.11-slim-bookworm\nCOPY src/app /app\n",
        "docker/sidecar.Dockerfile": "FROM NAME/tools:1\nCOPY serve.json /etc/serve.json\n",
        "docker/serve.json": "{}\n",
        "src/app/server.py": SERVER,
    },
    answer="tok-12345 ree-678",
    services=frozenset({"influxdb", "app", "sidecar"}),
    components={"influxdb": "influxdb", "tailscale": "volume"},
    mounted="docker/services/",
)

STATIC = Shape(
    {
        "compose.yaml": """\
services:
  proxy:
    image: NAME/traefik:v3.1
    command: [python3, /listen.py, --providers.docker=true, "--entrypoints.web.address=:80"]
    environment: {LISTEN: "80"}
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro", "./traefik:/etc/traefik:ro", "acme:/acme"]
    restart: unless-stopped
  site:
    image: NAME/caddy:2-alpine
    command: [python3, /srv/server.py]
    environment: ["GREETING=from a file server"]
    ports: ["127.0.0.1:PORT:8000"]
    volumes:
      - ./server.py:/srv/server.py:ro
      - {type: bind, source: ./public, target: /usr/share/caddy, read_only: true}
      - caddy_data:/data
      - {type: volume, source: caddy_config, target: /config, volume: {nocopy: true}}
    labels:
      traefik.enable: "true"
      traefik.http.routers.site.rule: Host(`www.example.org`) && PathPrefix(`/`)
      com.example.since: 2024-01-01
    read_only: true
    tmpfs: [/tmp]
    ulimits: {nofile: {soft: 1024, hard: 2048}}
    security_opt: ["no-new-privileges:true"]
    depends_on: [proxy]
volumes: {acme: , caddy_data: {labels: {org.example.keep: "yes"}}, caddy_config: }
""",
        "traefik/traefik.yml": "log: {level: INFO}\n",
        "public/index.html": "<p>hello</p>\n",
        "server.py": SERVER,
    },
    answer="from a file server",
    services=frozenset({"proxy", "site"}),
    components={"acme": "volume", "caddy_data": "volume", "caddy_config": "volume"},
)

SHOP = Shape(
    {
        "docker-compose.yml": f"""\
version: "3.9"
services:
  db:
    image: NAME/mariadb:11.4
    env_file: db.env
    volumes: ["./data/mysql:/var/lib/mysql", "./my.cnf:/etc/mysql/conf.d/my.cnf:ro"]
    command: --transaction-isolation=READ-COMMITTED
    {WELL.replace("ASKED", "3306")}
  app:
    image: "NAME/app:${{APP_TAG:-stable}}"
    build: {{context: ., dockerfile: Dockerfile}}
    env_file: [db.env, app.env]
    environment:
      MYSQL_HOST: db
      GREETING: "${{SHOP_NAME}} ${{SHOP_CITY:+in $SHOP_CITY}}${{SHOP_MOTTO-}}"
    ports: ["127.0.0.1:PORT:8000"]
    volumes: ["uploads:/var/www/uploads"]
    working_dir: /srv
    user: "33:33"
    depends_on: {{db: {{condition: service_healthy}}}}
  cron:
    image: "NAME/app:${{APP_TAG:-stable}}"
    env_file: [db.env, app.env]
    entrypoint: [python3, -c, "import signal; signal.signal(15, lambda *_: exit()); signal.pause()"]
    init: true
    depends_on: [db, app]
volumes: {{uploads: }}
""",
        ".env": "SHOP_NAME=Schoko & Co\nSHOP_CITY=Köln   # on the Rhine\nMYSQL_PASSWORD=not-for-the-shop\n",
        "db.env": "MYSQL_DATABASE=shop\nMYSQL_USER=shop\nMYSQL_PASSWORD=\"swordfish#99\"\nMYSQL_ROOT_PASSWORD='r$t'\n",
        "app.env": "SMTP_URL=smtp://shop:${MYSQL_PASSWORD}@mail.example.org\nMYSQL_USER=app\n",
        "my.cnf": "[mysqld]\n",
        "Dockerfile": DOCKERFILE,
        "server.py": SERVER,
    },
    answer="Schoko & Co in Köln",
    services=frozenset({"db", "app", "cron"}),
    components={"db": "mariadb", "uploads": "volume"},
    mounted="data/",
)

MEASURED = Shape(
    {
        "docker-compose.yaml": """\
x-always: &always {restart: always, networks: [house]}
services:
  mosquitto:
    <<: *always
    image: NAME/eclipse-mosquitto:2
    environment: {LISTEN: "1883"}
    volumes: ["./mosquitto/mosquitto.conf:/mosquitto/config/mosquitto.conf:ro", "mosquitto:/mosquitto/data"]
    stdin_open: true
    tty: true
  influxdb:
    <<: *always
    image: NAME/influxdb:2.7-alpine
    environment:
      DOCKER_INFLUXDB_INIT_MODE: setup
      DOCKER_INFLUXDB_INIT_ORG: house
      DOCKER_INFLUXDB_INIT_BUCKET: sensors
      DOCKER_INFLUXDB_INIT_ADMIN_TOKEN: "${INFLUX_TOKEN:?}"
    volumes: ["influx:/var/lib/influxdb2"]
    healthcheck: {test: [CMD, influx, ping], interval: 1s, timeout: 20s, retries: 60}
  grafana:
    <<: *always
    build: {dockerfile: grafana.Dockerfile}
    user: "472:0"
    environment:
      GF_SECURITY_ADMIN_PASSWORD__FILE: /run/secrets/grafana
      GREETING: "token ${INFLUX_TOKEN}"
    ports: ["127.0.0.1:PORT:8000"]
    volumes: ["grafana:/var/lib/grafana", "./provisioning:/etc/grafana/provisioning:ro"]
    secrets: [{source: grafana, target: grafana, mode: 0444}]
    extra_hosts: ["inverter:192.0.2.7"]
    dns: 192.0.2.53
    depends_on: {influxdb: {condition: service_healthy, restart: true}, mosquitto: {condition: service_started}}
networks:
  house:
    driver_opts: {com.docker.network.bridge.enable_icc: "true"}
    ipam: {config: [{subnet: 10.213.77.0/24}]}
secrets: {grafana: {file: ./grafana.password}}
volumes: {mosquitto: , influx: , grafana: }
""",
        ".env": "INFLUX_TOKEN='a+b/c=='\n",
        "grafana.password": "swordfish\n",
        "mosquitto/mosquitto.conf": "listener 1883\n",
        "provisioning/datasources.yaml": "apiVersion: 1\n",
        "grafana.Dockerfile": DOCKERFILE,
        "server.py": SERVER,
    },
    answer="token a+b/c==",
    services=frozenset({"mosquitto", "influxdb", "grafana"}),
    components={"mosquitto": "volume", "influxdb": "influxdb", "grafana": "volume"},
)

QUEUED = Shape(
    {
        "docker/docker-compose.yml": """\
name: NAME
include:
  - data/compose.yaml
  - {path: [app/compose.yaml, app/compose.override.yaml], env_file: app/app.env}
  - path: tools/compose.yaml
networks: {default: {name: NAME-net}}
""",
        "docker/.env": "SITE=docker\n",
        "docker/data/compose.yaml": """\
services:
  queue:
    image: NAME/redis:7
    command: redis-server --dir /data --protected-mode no --save 60 1
    volumes: [queue:/data]
volumes: {queue: {labels: [org.example.kept=yes]}}
""",
        "docker/app/compose.yaml": """\
services:
  web:
    build: {context: ., args: {SITE: "${SITE}"}}
    environment: [GREETING, "SITE=${SITE}"]
    depends_on: [queue]
    deploy: {replicas: 1, restart_policy: {condition: on-failure}}
""",
        "docker/app/compose.override.yaml": "services: {web: {ports: ['127.0.0.1:PORT:8000'], init: true}}\n",
        "docker/app/app.env": "GREETING=${SITE} of the app\n",
        "docker/app/Dockerfile": f"{DOCKERFILE}ARG SITE\n",
        "docker/app/server.py": SERVER,
        "docker/tools/compose.yaml": """\
services:
  shell: {image: "NAME/tools:1", profiles: [tools, debug], depends_on: [queue], stdin_open: true, tty: true}
""",
    },
    answer="docker of the app",
    services=frozenset({"web", "queue"}),
    components={"queue": "redis"},
    folder="docker",
)

HOSTED = Shape(
    {
        "compose.yml": """\
x-logging: &logging {logging: {driver: json-file, options: {max-size: 5m, max-file: "3"}}}
services:
  caddy:
    <<: *logging
    image: NAME/caddy:2-alpine
    environment: {LISTEN: "80"}
    volumes: ["./Caddyfile:/etc/caddy/Caddyfile:ro", "caddy_data:/data"]
    networks: [front]
    extra_hosts: ["host.docker.internal:host-gateway"]
    labels: ["com.example.role=proxy"]
    healthcheck: {disable: true}
  notes:
    <<: *logging
    build:
      context: ./notes
      dockerfile_inline: |
        FROM python:3.11-slim-bookworm
        COPY server.py /srv/
        USER 1000:1000
        CMD ["python3", "/srv/server.py"]
    environment: {GREETING: "${GREETING:-notes}", DATABASE_URL: "sqlite:////data/notes.db"}
    ports: ["127.0.0.1:${WEB_PORT:-PORT}:8000"]
    volumes: ["notes:/data"]
    networks: {front: {aliases: [notes.internal]}, back: }
    stop_signal: SIGINT
    cap_drop: [ALL]
    pids_limit: 200
  mail:
    <<: *logging
    image: NAME/tools:1
    environment: {LISTEN: "25"}
    networks: [back]
    profiles: [mail]
networks: {front: {driver: bridge}, back: {internal: true}}
volumes: {caddy_data: , notes: }
""",
        ".env": "# of this host\nexport GREETING='notes of \"ours\"'\nWEB_PORT=PORT\nCOMPOSE_PROFILES=mail\n",
        "Caddyfile": ":80 {\n reverse_proxy notes:8000\n}\n",
        "notes/server.py": SERVER,
    },
    answer='notes of "ours"',
    services=frozenset({"caddy", "notes", "mail"}),
    components={"caddy_data": "volume", "notes": "volume"},
)

SHAPES: Mapping[str, Shape] = {
    "database-worker-migration": DATABASE,
    "monorepo-targets-arguments": MONOREPO,
    "include-anchors-profiles": INCLUDED,
    "development-override": OVERRIDDEN,
    "network-of-another-service": TUNNELLED,
    "front-replicas-configs": FRONTED,
    "bind-mounted-influxdb-lower-case-variables": MERGED_BY_HAND,
    "static-site-behind-traefik": STATIC,
    "mariadb-env-files": SHOP,
    "mqtt-influxdb-grafana": MEASURED,
    "folder-of-three-includes": QUEUED,
    "caddy-profiles-sqlite": HOSTED,
}
