"""Both services with Flask and requests, under gunicorn: pair:a() and pair:b(url)."""

import logging
import sys
import time

import flask
import requests

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
logging.getLogger("urllib3").setLevel(logging.WARNING)


def application(service):
    app = flask.Flask(service)

    @app.before_request
    def start():
        flask.g.start = time.time()

    @app.after_request
    def log(response):
        began = flask.g.start
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began))
        logging.info(
            "time=%s.%06dZ level=info service=%s method=%s endpoint=%s status=%d latency_ms=%.3f",
            *(at, began % 1 * 1e6, service, flask.request.method, flask.request.path),
            *(response.status_code, (time.time() - began) * 1000),
        )
        return response

    return app


def a():
    app = application("service-a")

    @app.get("/echo")
    def echo():
        return {"echo": flask.request.args.get("msg", "")}

    return app


def b(url):
    app = application("service-b")
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))

    @app.get("/call-echo")
    def call_echo():
        try:
            query = {"msg": flask.request.args.get("msg", "")}
            answer = session.get(url + "/echo", params=query, timeout=1)
            answer.raise_for_status()
            return {"service_a": answer.json(), "service_b": "ok"}
        except requests.RequestException:
            return {"service_a": "unavailable", "service_b": "ok"}, 503

    return app
