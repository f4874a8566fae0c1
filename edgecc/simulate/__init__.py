"""What a device without floating point answers: TFLite's integer arithmetic, bit for bit, in numpy.

`graph` reads a file, `fixed_point` holds the arithmetic, one module a family of operators computes them, `network`
runs them in order, `runner` gives that the interface of a runtime, `agreement` compares it with LiteRT.
"""
