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

// armFaults turns faults of this goroutine into panics until catchFault. It costs some ns, which the
// reads and writes of memory stores need not pay: anonymous memory does not fault.
func armFaults() (before bool) { return debug.SetPanicOnFault(true) }

// mayFault reports whether the store's memory is mapped files, so that a touch of it may be a fault. It is a
// branch, which predicts, because every read and write would pay for an indirect call.
func (s *Store) mayFault() bool { return s.disk != nil }

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
	m, offset, ok := s.memoryAt(fault.Addr())
	if !ok {
		panic(r)
	}
	s.corruptRecords.Add(1)
	*err = &CorruptError{
		File:   m.name,
		Offset: offset,
		Reason: "the page cannot be had: file cut short, or disk error",
	}
}

// trackedMemory is a mapped file that a fault may be on.
type trackedMemory struct {
	name string
	mem  []byte
}

// track lets catchFault know mem, the mapping of a file, until untrack.
func (d *disk) track(name string, mem []byte) {
	d.mappedMu.Lock()
	defer d.mappedMu.Unlock()
	d.mapped[unsafe.SliceData(mem)] = trackedMemory{name: name, mem: mem}
}

func (d *disk) untrack(mem []byte) {
	d.mappedMu.Lock()
	defer d.mappedMu.Unlock()
	delete(d.mapped, unsafe.SliceData(mem))
}

// memoryAt returns the mapped file that addr lies in. Retired segments are known as long as they are
// mapped.
func (s *Store) memoryAt(addr uintptr) (m trackedMemory, offset int64, ok bool) {
	if s.disk == nil {
		return m, 0, false
	}
	s.disk.mappedMu.Lock()
	defer s.disk.mappedMu.Unlock()
	for _, m := range s.disk.mapped {
		if from := address(m.mem); addr >= from && addr-from < uintptr(len(m.mem)) {
			return m, int64(addr - from), true
		}
	}
	return m, 0, false
}

// address is compared with that of a fault, and never becomes a pointer again.
func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }
