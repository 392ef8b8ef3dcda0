/* Code that is compiled once per variant, with VARIANT and WITH_ macros set. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define V(name) JOIN(name, VARIANT) /* a name of the variant that is being compiled */

#include "vector_math.h"
#include "dot_products.h"
#include "matrices.h"
#include "cells.h"
#include "predictor.h"
#include "samples.h"
#include "symbols.h"
#include "steps.h"
