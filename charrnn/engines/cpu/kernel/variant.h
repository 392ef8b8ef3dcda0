/* Code that is compiled once per variant, with VARIANT and WITH_ macros set. */

#include "vector_math.h"
#include "dot_products.h"
#include "matrices.h"
#include "cells.h"
#include "predictor.h"
#include "samples.h"
#include "symbols.h"
#include "steps.h"
