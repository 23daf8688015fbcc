package warmtier

import (
	"runtime"
	"runtime/debug"
	"sync"
	"unsafe"
)

/*
A touch of a mapped page that the kernel cannot supply (the file was cut short, the disk failed)
raises a signal, and by default the signal ends the process. Where debug.SetPanicOnFault is set it
is a panic instead. That holds for one goroutine, so each call that reads or writes a mapped file
sets it and recovers:

	defer s.catchFault(armFaults(), &err)

Code that a fault may end holds locks with defer only.
*/

// armFaults turns faults of this goroutine into panics until catchFault. It costs some ns, which
// the reads and writes of memory stores need not pay: anonymous memory does not fault.
func armFaults() (before bool) { return debug.SetPanicOnFault(true) }

// mayFault reports whether the store's memory is mapped files, so that a touch of it may be a
// fault. Every read and write asks.
func (s *Store) mayFault() bool { return s.disk != nil }

// catchFault ends what armFaults began. A fault on a mapped file becomes *err; any other panic, one
// of a user's callback for example, goes on. It must be deferred directly.
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
	name, offset, ok := s.medium.fileAt(fault.Addr())
	if !ok {
		panic(r)
	}
	s.corruptRecords.Add(1)
	*err = &CorruptError{
		File:   name,
		Offset: offset,
		Reason: "the page cannot be had: file cut short, or disk error",
	}
}

// mappedFiles are the files that a fault may be on. A segment's file is among them as long as it is
// mapped, after the segment was retired too.
type mappedFiles struct {
	mu    sync.Mutex           // a leaf
	files map[*byte]mappedFile // by the first byte of the mapping
}

type mappedFile struct {
	name string
	mem  []byte
}

// track adds mem, the mapping of the file called name, until untrack.
func (m *mappedFiles) track(name string, mem []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[unsafe.SliceData(mem)] = mappedFile{name: name, mem: mem}
}

func (m *mappedFiles) untrack(mem []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, unsafe.SliceData(mem))
}

// fileAt searches all mapped files: faults are rare, and a store has few segments.
func (d *disk) fileAt(addr uintptr) (name string, offset int64, ok bool) {
	m := &d.mappedFiles
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.files {
		if from := address(f.mem); addr >= from && addr-from < uintptr(len(f.mem)) {
			return f.name, int64(addr - from), true
		}
	}
	return "", 0, false
}

// address returns where mem lies. It is compared with the address of a fault, and never becomes a
// pointer again.
func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }
