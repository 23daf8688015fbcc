package warmtier

import (
	"runtime"
	"runtime/debug"
	"unsafe"
)

/*
A touch of a mapped page that cannot be had (the file was cut short, the disk failed) is a signal, and
by default the end of the process. Where debug.SetPanicOnFault is set it is a panic instead. That
holds for one goroutine, so each call that reads or writes a mapped file sets it and recovers:

	defer s.catchFault(armFaults(), &err)

Whoever can be thrown out this way holds locks with defer only.
*/

// armFaults turns faults of this goroutine into panics until catchFault. It costs about 9 ns, which
// memory stores need not pay: anonymous memory does not fault.
func armFaults() (before bool) { return debug.SetPanicOnFault(true) }

// catchFault ends what armFaults began. A fault on a segment becomes *err; any other panic, that of a
// user's callback for one, goes on. It must be deferred directly.
func (s *Store) catchFault(before bool, err *error) {
	debug.SetPanicOnFault(before)
	r := recover()
	if r == nil {
		return
	}
	fault, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		panic(r)
	}
	seg := s.segmentAt(fault.Addr())
	if seg == nil {
		panic(r)
	}
	s.corruptRecords.Add(1)
	*err = &CorruptError{
		File:   seg.name(),
		Offset: int64(fault.Addr() - address(seg.mem)),
		Reason: "the page cannot be read: file cut short, or disk error",
	}
}

// segmentAt returns the segment file that addr lies in, nil when there is none. Retired ones are
// known as long as they are mapped.
func (s *Store) segmentAt(addr uintptr) *segment {
	if s.disk == nil {
		return nil
	}
	s.disk.mappedMu.Lock()
	defer s.disk.mappedMu.Unlock()
	for seg := range s.disk.mapped {
		if from := address(seg.mem); addr >= from && addr-from < uintptr(len(seg.mem)) {
			return seg
		}
	}
	return nil
}

// address is compared with that of a fault, and never becomes a pointer again.
func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }
