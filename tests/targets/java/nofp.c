/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native methods of Stress.java, built without frame pointers: each leaves something in rbp that is none when it calls
 * malloc, or Java. One thread of its own attaches itself to the JVM.
 */
#define _GNU_SOURCE
#include <jni.h>
#include <pthread.h>
#include <stdlib.h>

/* Blocks of this size are kept. */
#define KEPT_BYTES 60013

static JavaVM *machine;
static jclass stress;
static jmethodID called_back;

/* The compiler saves rbp as it does any register that is overwritten here; the tables say where. */
#define SCRIBBLE_RBP() __asm__ volatile("mov $0x1234567, %%ebp" ::: "rbp")

__attribute__((noinline)) static void *allocate(size_t size)
{
	void *block;

	SCRIBBLE_RBP();
	block = malloc(size);
	SCRIBBLE_RBP();
	return block;
}

JNIEXPORT void JNICALL Java_Stress_allocate(JNIEnv *env, jclass type, jint size)
{
	void *block = allocate(size);

	(void)env;
	(void)type;
	SCRIBBLE_RBP();
	/* Of a thread that has ended only what is outstanding is still seen. */
	if (size != KEPT_BYTES)
		free(block);
}

__attribute__((noinline)) static void call_back(JNIEnv *env, jint size)
{
	SCRIBBLE_RBP();
	(*env)->CallStaticVoidMethod(env, stress, called_back, size);
	SCRIBBLE_RBP();
}

JNIEXPORT void JNICALL Java_Stress_backAndForth(JNIEnv *env, jclass type, jint size)
{
	(void)type;
	call_back(env, size);
}

static void *run_attached(void *rounds)
{
	JNIEnv *env;

	if ((*machine)->AttachCurrentThread(machine, (void **)&env, NULL))
		abort();
	for (long i = 0; i < (long)rounds; i++)
		call_back(env, KEPT_BYTES);
	(*machine)->DetachCurrentThread(machine);
	return NULL;
}

/* A thread that Java knows nothing of attaches itself, calls back so many times, and ends. */
JNIEXPORT void JNICALL Java_Stress_attach(JNIEnv *env, jclass type, jlong rounds)
{
	pthread_t thread;

	(void)env;
	(void)type;
	if (pthread_create(&thread, NULL, run_attached, (void *)rounds) ||
	    pthread_join(thread, NULL))
		abort();
}

JNIEXPORT void JNICALL Java_Stress_prepare(JNIEnv *env, jclass type)
{
	stress = (*env)->NewGlobalRef(env, type);
	called_back = (*env)->GetStaticMethodID(env, type, "calledBack", "(I)V");
	if (!stress || !called_back || (*env)->GetJavaVM(env, &machine))
		abort();
}
