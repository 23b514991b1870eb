#define PY_SSIZE_T_CLEAN
#include <Python.h>
/* tokenize(bytes) -> int: forgets a 4,099-byte table at each call (PyMem_RawMalloc, so outside of pymalloc). */
static void *token_table_new(size_t n)
{
	char *p = PyMem_RawMalloc(n);
	memset(p, 1, n);
	return p;
}
static PyObject *tokenize(PyObject *self, PyObject *arg)
{
	char *s;
	Py_ssize_t n;
	if (PyBytes_AsStringAndSize(arg, &s, &n) < 0)
		return NULL;
	char *t = token_table_new(4099);
	long v = 0;
	for (Py_ssize_t i = 0; i < n; ++i)
		v += (t[i % 4099] = s[i]);
	return PyLong_FromLong(v);
}
static PyMethodDef m[] = { { "tokenize", tokenize, METH_O, 0 }, { 0 } };
static struct PyModuleDef d = { PyModuleDef_HEAD_INIT, "fastparse", 0, -1, m };
PyMODINIT_FUNC PyInit_fastparse(void)
{
	return PyModule_Create(&d);
}
