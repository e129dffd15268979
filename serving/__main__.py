"""`python -m serving`: one server, set by `DIMFLOW_SERVING_` variables and `--options`."""

import argparse
import logging
import os
import sys

from model_contract.errors import DimflowError
from model_contract.process_settings import SettingError, add_setting_arguments, arguments_of
from serving.process import serve
from serving.settings import PREFIX, ServingSettings

__all__ = ["main"]


def main() -> int:
    """Reads the settings, sets up logging and serves; answers the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Answers predictions from increments.")
    add_setting_arguments(parser, ServingSettings, PREFIX)
    try:
        settings = ServingSettings.from_environ(os.environ, arguments_of(parser.parse_args(), ServingSettings))
    except SettingError as error:
        parser.error(str(error))
    try:
        return serve(settings)
    except DimflowError as error:
        logging.getLogger("serving").critical("%s", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
