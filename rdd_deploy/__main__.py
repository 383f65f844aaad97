"""``python -m rdd_deploy COMMAND``: the same as ``rdd-deploy COMMAND``."""

from rdd_deploy.cli import main

main()
