package main

import "syscall"

// hugeMemory maps at least size bytes in huge pages, as warmtier has its segments and tables.
func hugeMemory(size int) ([]byte, error) {
	const page = 2 << 20
	mem, err := syscall.Mmap(-1, 0, (size+2*page-1)&^(page-1), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, err
	}
	return mem[:size], syscall.Madvise(mem, syscall.MADV_HUGEPAGE)
}
