"""What tasks do to logging. Right: the lines of the loop appear, as asked for."""

import logging
import logging.config

from integration.cases.base import Case


class Disables(Case):
    """Disables all of it."""

    def work(self) -> None:
        """Disable it."""
        logging.disable(logging.CRITICAL)


class Clears(Case):
    """Takes all handlers away."""

    def work(self) -> None:
        """Take them away."""
        for logger in (logging.getLogger(), logging.getLogger('jobslib')):
            for handler in list(logger.handlers):
                logger.removeHandler(handler)


class Configures(Case):
    """Configures it anew, which disables the loggers that there are."""

    def work(self) -> None:
        """Configure it."""
        logging.config.dictConfig({'version': 1, 'root': {'level': 'CRITICAL'}})
