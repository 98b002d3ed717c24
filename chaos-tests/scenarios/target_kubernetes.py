"""The same scenarios at a cluster in Kubernetes, by kubectl."""


def add_options(parser):
    parser.add_argument_group("kubernetes")
