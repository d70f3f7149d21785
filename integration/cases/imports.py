"""A library logs at its import, which gives the root logger a handler."""

import logging

from integration.cases.base import Case

logging.warning('an optional module is missing')


class Logs(Case):
    """Logs in its run.

    Right: its lines and those of the loop appear, in the format that was asked for.
    """

    def work(self) -> None:
        """Log."""
        self.logger.info('the task is working')
        logging.getLogger('shop').info('an order was sent')
