/* What `hostile` loads; the test gives `harmless` a worse name. */
#include <stdlib.h>

__attribute__((noinline)) void *harmless(size_t size)
{
	char *volatile block = malloc(size);

	return block;
}

void *take(size_t size)
{
	char *block = harmless(size);

	if (block)
		block[0] = 1;
	return block;
}
