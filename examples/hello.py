"""The least that makes a task.

    runjob examples.hello.Hello --run-once --whom everybody
"""

from jobslib import BaseTask, argument


class Hello(BaseTask):
    """Says hello."""

    description = 'Say hello.'
    arguments = (
        argument('--whom', default='world', help='whom to greet'),
    )

    def task(self) -> None:
        self.stdout.write(f'Hello, {self.args.whom}!\n')
