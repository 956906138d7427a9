"""Studies: questions about a recipe that take several fits, answered with the test split sealed."""
