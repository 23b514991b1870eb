/* SPDX-License-Identifier: Apache-2.0 */
/* The extension of the programs of the corpus in Python, the held half: only for the final measurement. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

/* encode_frame(int) -> int: a reference too many to the bytes it makes, so that they stay. */
static PyObject *encode_frame(PyObject *self, PyObject *size)
{
	Py_ssize_t n = PyLong_AsSsize_t(size);
	(void)self;
	if (n == -1 && PyErr_Occurred())
		return NULL;
	PyObject *frame = PyBytes_FromStringAndSize(NULL, n);
	if (!frame)
		return NULL;
	memset(PyBytes_AS_STRING(frame), 2, (size_t)n);
	return PyLong_FromSsize_t(n);
}

/* open_cursor() -> None: forgets a cursor of 1,501 bytes; read_row() -> None: forgets a row of 611 bytes. */
static PyObject *open_cursor(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	memset(malloc(1501), 3, 1501);
	Py_RETURN_NONE;
}

static PyObject *read_row(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	memset(malloc(611), 4, 611);
	Py_RETURN_NONE;
}

/* acquire_buffer(int) -> None: bounded, a pool that grows to as many buffers as were ever wanted at one time. */
static PyObject *acquire_buffer(PyObject *self, PyObject *wanted)
{
	static char *pool[256];
	long n = PyLong_AsLong(wanted);
	(void)self;
	if (n == -1 && PyErr_Occurred())
		return NULL;
	for (long i = 0; i < n && i < 256; i++)
		if (!pool[i]) {
			pool[i] = malloc(8192);
			memset(pool[i], 5, 8192);
		}
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{ "encode_frame", encode_frame, METH_O, "Keep bytes by a reference too many." },
	{ "open_cursor", open_cursor, METH_NOARGS, "Forget a cursor." },
	{ "read_row", read_row, METH_NOARGS, "Forget a row." },
	{ "acquire_buffer", acquire_buffer, METH_O, "Take buffers from a pool." },
	{ NULL, NULL, 0, NULL },
};
static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT, "ext_held", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit_ext_held(void)
{
	return PyModule_Create(&module);
}
