/* SPDX-License-Identifier: Apache-2.0 */
/* The extension of the programs of the corpus in Python, the open half. labels.py says which functions leak. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

enum { MEMO_ROOM = 200 };

/* tokenize(bytes) -> int: forgets its table. */
static PyObject *tokenize(PyObject *self, PyObject *text)
{
	char *bytes;
	Py_ssize_t n;
	unsigned sum = 0;
	(void)self;
	if (PyBytes_AsStringAndSize(text, &bytes, &n) < 0)
		return NULL;
	unsigned char *table = PyMem_RawMalloc(3001);
	if (!table)
		return PyErr_NoMemory();
	for (Py_ssize_t i = 0; i < 3001; i++)
		table[i] = n ? (unsigned char)bytes[i % n] : 0;
	for (Py_ssize_t i = 0; i < n; i++)
		sum += table[i % 3001];
	return PyLong_FromUnsignedLong(sum);
}

/* memoize(int) -> None: bounded, one block for each of 200 slots, replaced when its key changes. */
static PyObject *memoize(PyObject *self, PyObject *key)
{
	static struct {
		long key;
		unsigned char *value;
	} slots[MEMO_ROOM];
	long wanted = PyLong_AsLong(key);
	(void)self;
	if (wanted == -1 && PyErr_Occurred())
		return NULL;
	long at = wanted % MEMO_ROOM;
	if (!slots[at].value || slots[at].key != wanted) {
		free(slots[at].value);
		slots[at].value = malloc(1000 + (size_t)wanted);
		if (!slots[at].value)
			return PyErr_NoMemory();
		memset(slots[at].value, 1, 1000);
		slots[at].key = wanted;
	}
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{ "tokenize", tokenize, METH_O, "Forget a table." },
	{ "memoize", memoize, METH_O, "Keep one block for each slot." },
	{ NULL, NULL, 0, NULL },
};
static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT, "ext_open", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit_ext_open(void)
{
	return PyModule_Create(&module);
}
