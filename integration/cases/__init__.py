"""Tasks as people write them, each of which does something to its process.

What is right for each stands in its docstring; `integration.test_cases` runs
them under both locks, disturbs them, and looks at the time stamps that they
write.
"""
