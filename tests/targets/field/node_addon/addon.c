#include <node_api.h>
#include <stdlib.h>
#include <string.h>
/* checksum(buffer): forgets its 2,051-byte scratch block at each call. */
static char *scratch_new(size_t n)
{
	char *p = malloc(n);
	memset(p, 7, n);
	return p;
}
static napi_value Checksum(napi_env env, napi_callback_info info)
{
	size_t argc = 1;
	napi_value argv[1];
	void *data;
	size_t len;
	napi_value r;
	unsigned s = 0;
	napi_get_cb_info(env, info, &argc, argv, 0, 0);
	napi_get_buffer_info(env, argv[0], &data, &len);
	char *t = scratch_new(2051);
	for (size_t i = 0; i < len && i < 2051; ++i)
		s += (t[i] = ((char *)data)[i]);
	napi_create_uint32(env, s, &r);
	return r;
}
static napi_value Init(napi_env env, napi_value exports)
{
	napi_value f;
	napi_create_function(env, "checksum", NAPI_AUTO_LENGTH, Checksum, 0, &f);
	napi_set_named_property(env, exports, "checksum", f);
	return exports;
}
NAPI_MODULE(NODE_GYP_MODULE_NAME, Init)
