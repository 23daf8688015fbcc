#include "textflag.h"

// func Prefetch(mem []byte)
TEXT ·Prefetch(SB), NOSPLIT, $0-24
	MOVQ mem_base+0(FP), AX
	MOVQ mem_len+8(FP), CX
	ADDQ AX, CX
	ANDQ $~63, AX

line:
	CMPQ AX, CX
	JAE  done
	PREFETCHT0 (AX)
	ADDQ $64, AX
	JMP  line

done:
	RET
