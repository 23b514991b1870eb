/* SPDX-License-Identifier: Apache-2.0 */
/* An extension of the corpus, the blind half. labels.py says which of its functions leak. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

/*
 * ---- decode_document(bytes) -> number of its nodes ----
 * A list in brackets becomes a tree of nodes, by a parser that calls itself. A document that ends too early raises
 * ValueError, and the nodes made so far are forgotten.
 */

struct node {
	struct node *first, *next;
	char *text;
};

static void nodes_free(struct node *node)
{
	while (node) {
		struct node *next = node->next;
		nodes_free(node->first);
		free(node->text);
		free(node);
		node = next;
	}
}

/* NULL at an early end. It has a name in the binary because it calls itself. */
NOINLINE static struct node *parse_value(const char **at, const char *end, long *n)
{
	struct node *node = calloc(1, sizeof(*node)), **last = &node->first;
	const char *start = *at;
	++*n;
	while (*at < end && **at != '[' && **at != ']')
		++*at;
	node->text = malloc((size_t)(*at - start) + 1);
	memcpy(node->text, start, (size_t)(*at - start));
	node->text[*at - start] = 0;
	while (*at < end && **at == '[') {
		++*at;
		*last = parse_value(at, end, n);
		if (!*last || *at == end)
			return NULL;
		last = &(*last)->next;
		++*at;
	}
	return node;
}

static PyObject *decode_document(PyObject *self, PyObject *document)
{
	char *bytes;
	Py_ssize_t size;
	long n = 0;
	(void)self;
	if (PyBytes_AsStringAndSize(document, &bytes, &size) < 0)
		return NULL;
	const char *at = bytes;
	struct node *root = parse_value(&at, bytes + size, &n);
	if (!root)
		return PyErr_Format(PyExc_ValueError, "%ld", n);
	nodes_free(root);
	return PyLong_FromLong(n);
}

/*
 * ---- open_stream(level), open_reader(level) -> capsule of a codec ----
 * The capsule of a reader has a destructor. The one of a stream has none, so its codec stays when the capsule goes.
 */

struct codec {
	unsigned char *window, *state;
};

static void codec_close(PyObject *capsule)
{
	struct codec *codec = PyCapsule_GetPointer(capsule, "codec");
	free(codec->window);
	free(codec->state);
	free(codec);
}

static PyObject *open_stream(PyObject *self, PyObject *level)
{
	size_t size = 1024u << PyLong_AsLong(level);
	struct codec *codec = malloc(sizeof(*codec));
	(void)self;
	codec->window = malloc(size);
	codec->state = calloc(1, 600);
	memset(codec->window, 1, size);
	return PyCapsule_New(codec, "codec", NULL);
}

static PyObject *open_reader(PyObject *self, PyObject *level)
{
	size_t size = 1024u << PyLong_AsLong(level);
	struct codec *codec = malloc(sizeof(*codec));
	(void)self;
	codec->window = malloc(size);
	codec->state = calloc(1, 600);
	memset(codec->window, 2, size);
	return PyCapsule_New(codec, "codec", codec_close);
}

/*
 * ---- append_row(text) -> number of rows in the batch ----
 * Bounded: eight columns grow by doubling to 4,000 rows; then they are cut to their length and become a batch.
 * The last four batches stay.
 */

enum { COLUMNS = 8, ROWS = 4000, BATCHES = 4 };

struct column {
	double *values;
	size_t n, room;
};

NOINLINE static void column_append(struct column *column, double value)
{
	if (column->n == column->room) {
		column->room = column->room ? 2 * column->room : 64;
		column->values = realloc(column->values, column->room * sizeof(double));
	}
	column->values[column->n++] = value;
}

NOINLINE static void batch_finish(struct column *columns)
{
	static double *batches[BATCHES][COLUMNS];
	static unsigned next;
	for (int i = 0; i < COLUMNS; i++) {
		free(batches[next][i]);
		batches[next][i] = realloc(columns[i].values, columns[i].n * sizeof(double));
		columns[i] = (struct column){ NULL, 0, 0 };
	}
	next = (next + 1) % BATCHES;
}

static PyObject *append_row(PyObject *self, PyObject *text)
{
	static struct column columns[COLUMNS];
	char *bytes;
	Py_ssize_t size;
	(void)self;
	if (PyBytes_AsStringAndSize(text, &bytes, &size) < 0)
		return NULL;
	char *copy = malloc((size_t)size + 1);
	memcpy(copy, bytes, (size_t)size + 1);
	for (int i = 0; i < COLUMNS; i++)
		column_append(&columns[i], copy[i % (size + 1)]);
	free(copy);
	if (columns[0].n == ROWS)
		batch_finish(columns);
	return PyLong_FromSize_t(columns[0].n);
}

static PyMethodDef methods[] = {
	{ "decode_document", decode_document, METH_O, "Count the nodes of a document." },
	{ "open_stream", open_stream, METH_O, "A codec that nobody closes." },
	{ "open_reader", open_reader, METH_O, "A codec that closes with its capsule." },
	{ "append_row", append_row, METH_O, "Add a row to the batch." },
	{ NULL, NULL, 0, NULL },
};
static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT, "ext_blind", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit_ext_blind(void)
{
	return PyModule_Create(&module);
}
