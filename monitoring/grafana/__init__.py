"""The Grafana dashboards, as code.

Each dashboard is a value in a module of its own; `building` turns it into Grafana's JSON, which is kept beside it for
those who import it by hand. Every panel has a question that its owner would ask; what it shows answers that question.
"""
