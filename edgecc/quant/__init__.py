"""What is quantized and how: parameters, the plan, and the rules of each runtime."""
