/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native methods of Mappings.java, built without frame pointers: each makes one system call for memory, by the C
 * library, and leaves something in rbp that is no frame pointer.
 */
#define _GNU_SOURCE
#include <jni.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SCRIBBLE_RBP() __asm__ volatile("mov $0x1234567, %%ebp" ::: "rbp")

static void *checked(void *address)
{
	if (address == MAP_FAILED)
		abort();
	SCRIBBLE_RBP();
	return address;
}

JNIEXPORT jint JNICALL Java_Mappings_tid(JNIEnv *env, jclass type)
{
	(void)env;
	(void)type;
	return (jint)syscall(SYS_gettid);
}

JNIEXPORT jlong JNICALL Java_Mappings_mmap(JNIEnv *env, jclass type, jlong bytes)
{
	(void)env;
	(void)type;
	SCRIBBLE_RBP();
	return (jlong)checked(mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

JNIEXPORT void JNICALL Java_Mappings_munmap(JNIEnv *env, jclass type, jlong address, jlong bytes)
{
	(void)env;
	(void)type;
	SCRIBBLE_RBP();
	if (munmap((void *)address, (size_t)bytes))
		abort();
	SCRIBBLE_RBP();
}

JNIEXPORT jlong JNICALL Java_Mappings_mremap(JNIEnv *env, jclass type, jlong address,
					     jlong old_bytes, jlong new_bytes)
{
	(void)env;
	(void)type;
	SCRIBBLE_RBP();
	return (jlong)checked(
		mremap((void *)address, (size_t)old_bytes, (size_t)new_bytes, MREMAP_MAYMOVE));
}

/* Another thread of the JVM may move the break for malloc meanwhile: a return value that nobody else can have. */
JNIEXPORT jlong JNICALL Java_Mappings_sbrk(JNIEnv *env, jclass type, jlong bytes)
{
	(void)env;
	(void)type;
	SCRIBBLE_RBP();
	return (jlong)checked(sbrk((intptr_t)bytes));
}
