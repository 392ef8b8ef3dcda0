/* Table of the first layer. */

/* Add embedding (vocab, inputs) times columns (inputs, rows) to bias (rows,): W x + b of the first layer per symbol.
 * A library's product adds up in an order that depends on the processor, and this has to be the same on all of them. */
EXPORT void charrnn_table(int64_t vocab, int64_t inputs, int64_t rows, const float *embedding, const float *columns,
                          const float *bias, float *table)
{
    for (int64_t v = 0; v < vocab; v++, table += rows) {
        memcpy(table, bias, (size_t)rows * sizeof *table);
        for (int64_t k = 0; k < inputs; k++)
            for (int64_t row = 0; row < rows; row++)
                table[row] += embedding[v * inputs + k] * columns[k * rows + row];
    }
}
