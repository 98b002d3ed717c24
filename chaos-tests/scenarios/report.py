"""The HTML page of a run (first version: the figures)."""

import html
import json


def collect(run):
    return {}


def page(results, series):
    return "<!doctype html><title>mailraft scenarios</title><pre>" + html.escape(json.dumps(results, indent=1)) + "</pre>"
