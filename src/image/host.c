/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program picks its code by CPUID once, when it starts (glibc's string functions, say), and uses it for ever: so every
 * feature bit of the source that stands for instructions has to be there on the target.
 */
#include "host.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <xxhash.h>

struct cpuid_place {
	uint32_t leaf;
	uint32_t subleaf;
	uint32_t index; /* register: 0 eax ... 3 edx */
	uint32_t mask;  /* bits that stand for instructions or state that a program can use */
};

static const struct cpuid_place cpuid_places[IMAGE_HOST_WORDS] = {
	/* SSE3 to RDRAND, without what only a kernel can use */
	{ 0x1, 0, 2, 0x7ed83203 },
	/* FPU, TSC, CMPXCHG8B, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2 */
	{ 0x1, 0, 3, 0x07888111 },
	/* FSGSBASE, BMI, HLE, AVX2, ERMS, RTM, AVX-512, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA */
	{ 0x7, 0, 1, 0xfdaf0b39 },
	/* VBMI, OSPKE, WAITPKG, GFNI, VAES, VNNI, BITALG, RDPID, CLDEMOTE, MOVDIR, ENQCMD */
	{ 0x7, 0, 2, 0x3a405f73 },
	/* FSRM, VP2INTERSECT, SERIALIZE, TSXLDTRK, AMX, AVX-512 FP16 */
	{ 0x7, 0, 3, 0x03c1411c },
	/* SHA-512, SM3, SM4, AVX-VNNI, BF16, CMPCCXADD, fast short REP, AMX FP16, AVX-IFMA */
	{ 0x7, 1, 0, 0x00a01cb7 },
	/* AVX-VNNI-INT8, NE-CONVERT, AMX COMPLEX, VNNI-INT16, PREFETCHI, AVX10 */
	{ 0x7, 1, 3, 0x00084530 },
	/* XSAVEOPT, XSAVEC, XGETBV 1 */
	{ 0xd, 1, 0, 0x00000007 },
	/* LAHF, ABM, SSE4A, PREFETCHW, XOP, FMA4, TBM, MWAITX */
	{ 0x80000001, 0, 2, 0x20210961 },
	/* MMXEXT, RDTSCP, long mode, 3DNow */
	{ 0x80000001, 0, 3, 0xe8400000 },
};

static uint64_t read_xcr0(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

/* Size of the mapped image: the end of its section headers, which lie last. */
static uint64_t vdso_size(const Elf64_Ehdr *header)
{
	return (header->e_shoff + (uint64_t)header->e_shnum * header->e_shentsize + 4095) & ~UINT64_C(4095);
}

int image_host_read(struct image_host *ret, struct error *error)
{
	const Elf64_Ehdr *vdso = (const Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR); /* NOLINT(performance-no-int-to-ptr) */
	struct utsname names;

	*ret = (struct image_host){ .message = HOST_FACTS__INIT };
	if (uname(&names) < 0)
		return error_set_errno(error, -errno, "cannot read the kernel's release");
	snprintf(ret->kernel, sizeof(ret->kernel), "%s", names.release);
	snprintf(ret->name, sizeof(ret->name), "%s", names.nodename);
	ret->message.kernel = ret->kernel;
	ret->message.name = ret->name;
	for (unsigned i = 0; i < IMAGE_HOST_WORDS; i++) {
		const struct cpuid_place *place = &cpuid_places[i];
		uint32_t registers[4] = { 0 };

		__get_cpuid_count(place->leaf, place->subleaf, &registers[0], &registers[1], &registers[2],
				  &registers[3]);
		ret->words[i] = (CpuidWord)CPUID_WORD__INIT;
		ret->words[i].leaf = place->leaf;
		ret->words[i].subleaf = place->subleaf;
		ret->words[i].index = place->index;
		ret->words[i].value = registers[place->index] & place->mask;
		ret->word_list[i] = &ret->words[i];
	}
	ret->message.n_cpuid = IMAGE_HOST_WORDS;
	ret->message.cpuid = ret->word_list;
	ret->message.xcr0 = read_xcr0();
	if (vdso) {
		ret->message.vdso_size = vdso_size(vdso);
		ret->message.vdso_hash = XXH3_64bits(vdso, ret->message.vdso_size);
	}
	return 0;
}

static uint32_t word_value(const HostFacts *facts, const CpuidWord *like)
{
	for (size_t i = 0; i < facts->n_cpuid; i++)
		if (facts->cpuid[i]->leaf == like->leaf && facts->cpuid[i]->subleaf == like->subleaf &&
		    facts->cpuid[i]->index == like->index)
			return facts->cpuid[i]->value;
	return 0;
}

void image_host_compare(const HostFacts *source, const HostFacts *target, struct image_blockers *blockers)
{
	static const char registers[4][4] = { "eax", "ebx", "ecx", "edx" };

	for (size_t i = 0; i < source->n_cpuid; i++) {
		const CpuidWord *word = source->cpuid[i];
		uint32_t missing = word->value & ~word_value(target, word);

		if (missing)
			image_blockers_add(blockers, 0, "processor", "the restoring host's processor lacks these features",
					   "restore on a machine with the same or a newer processor",
					   "CPUID leaf %#x/%u %s bits %#x", word->leaf, word->subleaf,
					   registers[word->index & 3], missing);
	}
	if (source->xcr0 & ~target->xcr0)
		image_blockers_add(blockers, 0, "processor", "the restoring host's kernel does not keep this processor state",
				   "restore on a machine with the same or a newer processor and kernel", "xsave state %#llx",
				   (unsigned long long)(source->xcr0 & ~target->xcr0));
	if (source->vdso_hash != target->vdso_hash || source->vdso_size != target->vdso_size)
		image_blockers_add(blockers, 0, "kernel",
				   "the kernels have different vDSOs, and running code may hold addresses in it",
				   "run the same kernel on both hosts", "vDSO of %s (then) and %s (here)",
				   source->kernel, target->kernel);
}

void image_xsave_layout_read(struct image_xsave_layout *ret)
{
	uint32_t eax, ebx, ecx, edx;
	uint64_t xcr0 = read_xcr0();

	memset(ret, 0, sizeof(*ret));
	/* 0 and 1 are the legacy area; 62 is not a component. */
	for (unsigned number = 2; number < 62; number++) {
		if (!(xcr0 >> number & 1) || !__get_cpuid_count(0xd, number, &eax, &ebx, &ecx, &edx))
			continue;
		ret->offset[number] = ebx;
		ret->size[number] = eax;
	}
}
