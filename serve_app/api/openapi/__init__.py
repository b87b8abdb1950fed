"""The OpenAPI document, made from the fields, the errors and the routes. Answers nothing else."""
