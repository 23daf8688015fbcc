package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

/*
A store is filled and closed; then one file of a copy of its directory is damaged, and the copy opened and read. An
error of Open or of a read is right, and so is every content as it was. Bytes that the id never had are wrong bytes; a
memory that is absent, or as it was before its last write, is a silent loss, unless an error was seen as well. One
process looks at one damage after the other; when it ends, another goes on with the next.
*/

// damagePatience is how long opening and reading one damaged directory may take.
const damagePatience = time.Minute

// damage is what is done to one file: one bit is flipped, or its end is cut off.
type damage struct {
	File string
	At   int64 // of the byte, or of the new end
	Flip byte  // 0: cut
}

func (d damage) String() string {
	if d.Flip == 0 {
		return fmt.Sprintf("%s cut to %d bytes", d.File, d.At)
	}
	return fmt.Sprintf("%s with byte %d flipped by %#x", d.File, d.At, d.Flip)
}

// damageReport says what came of all damages.
type damageReport struct {
	flips, cuts           int
	wrong, crashes        []string // of either
	lostByFlip, lostByCut []string
}

func damageIsNoWrongByte(e *env) error {
	r, err := e.damage()
	if err != nil {
		return err
	}
	return some("wrong bytes are read without an error", r.wrong, r.flips+r.cuts)
}

func damageEndsNoProcess(e *env) error {
	r, err := e.damage()
	if err != nil {
		return err
	}
	return some("the process ends, panics or hangs", r.crashes, r.flips+r.cuts)
}

func flippedByteIsNoSilentLoss(e *env) error {
	r, err := e.damage()
	if err != nil {
		return err
	}
	return some("memories are absent, or as they were before, without an error", r.lostByFlip, r.flips)
}

func cutFileIsNoSilentLoss(e *env) error {
	r, err := e.damage()
	if err != nil {
		return err
	}
	return some("memories are absent, or as they were before, without an error", r.lostByCut, r.cuts)
}

func some(what string, cases []string, of int) error {
	if len(cases) == 0 {
		return nil
	}
	return fmt.Errorf("%s in %d of %d damaged directories: %s", what, len(cases), of,
		strings.Join(cases[:min(3, len(cases))], "; "))
}

// inspectDamage tries damages one by one.
func (s *suite) inspectDamage(dir string) (*damageReport, error) {
	e := &env{suite: s, dir: filepath.Join(dir, "intact"), rng: rand.New(rand.NewPCG(s.Seed, 2))}
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return nil, err
	}
	l, err := e.prepareDamage()
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	damages, err := e.drawDamages()
	if err != nil {
		return nil, err
	}
	if err := l.save(filepath.Join(dir, "ledger")); err != nil {
		return nil, err
	}
	r := &damageReport{}
	for next := 0; next < len(damages); {
		c, err := s.start(job{Kind: jobDamage, Dir: dir, Damages: damages, From: next})
		if err != nil {
			return nil, err
		}
		err = c.finish(2*damagePatience, func(line string) {
			verb, found, _ := strings.Cut(line, " ")
			switch {
			case next == len(damages):
			case verb == "finding":
				r.add(damages[next], found)
			case verb == "next":
				next++
			}
		})
		crash := (*crashError)(nil)
		switch {
		case errors.As(err, &crash), errors.Is(err, errHung):
			r.add(damages[next], "crash "+err.Error())
			next++
		case err != nil:
			return nil, err
		}
	}
	for _, d := range damages {
		if d.Flip == 0 {
			r.cuts++
		} else {
			r.flips++
		}
	}
	return r, nil
}

func (r *damageReport) add(d damage, found string) {
	kind, detail, _ := strings.Cut(found, " ")
	text := d.String() + ": " + detail
	switch {
	case kind == "wrong":
		r.wrong = append(r.wrong, text)
	case kind == "crash":
		r.crashes = append(r.crashes, text)
	case kind == "lost" && d.Flip == 0:
		r.lostByCut = append(r.lostByCut, text)
	case kind == "lost":
		r.lostByFlip = append(r.lostByFlip, text)
	}
}

// damageLedger returns a small one: its directory is copied again and again.
func (e *env) damageLedger() *ledger {
	l := e.newLedger(120)
	l.sizes.most = min(l.sizes.most, 4096)
	return l
}

// prepareDamage fills a store so that its files have live and dead records, deletions among them, and closes it.
func (e *env) prepareDamage() (*ledger, error) {
	if err := e.open(); err != nil {
		return nil, err
	}
	l := e.damageLedger()
	if err := l.fill(e.st, 2); err != nil {
		return nil, err
	}
	if c, ok := e.st.(Compacter); ok {
		if err := c.Compact(); err != nil {
			return nil, err
		}
	}
	for i := range l.ids { // a quarter of each: the second version, the third, deleted, and written again
		for range i % 4 {
			if err := l.write(e.st, i); err != nil {
				return nil, err
			}
		}
	}
	if err := e.reopen(); err != nil { // a clean end, and what the next opening makes of it
		return nil, err
	}
	if err := l.check(e.st); err != nil {
		return nil, err
	}
	return l, e.close()
}

// drawDamages chooses bytes to flip, most of them where something is written, and places to cut files at.
func (e *env) drawDamages() ([]damage, error) {
	flips := 40 + int(e.Duration/(50*time.Millisecond))
	var files []string
	var written [][]int64 // in each, where bytes other than 0 are
	var sizes []int64
	err := filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(e.dir, path)
		if err != nil {
			return err
		}
		size, at, err := writtenBytes(path)
		if err == nil && size > 0 {
			files, sizes, written = append(files, name), append(sizes, size), append(written, at)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, errors.New("the store has no file that is not empty"))
	}
	var weight []int // files in proportion to what is written in them, and each at least once
	for i := range files {
		weight = append(weight, i)
		for range 4 * len(files) * len(written[i]) / max(1, total(written)) {
			weight = append(weight, i)
		}
	}
	var damages []damage
	for n := range flips {
		i := weight[n%len(weight)]
		at := e.rng.Int64N(sizes[i])
		if len(written[i]) > 0 && n%8 != 7 {
			at = written[i][e.rng.IntN(len(written[i]))]
		}
		damages = append(damages, damage{files[i], at, 1 << e.rng.IntN(8)})
	}
	for n := range flips / 2 {
		i := weight[n%len(weight)]
		end := sizes[i]
		if len(written[i]) > 0 {
			end = written[i][len(written[i])-1] + 1
		}
		damages = append(damages, damage{files[i], e.rng.Int64N(end), 0})
	}
	return damages, nil
}

func total(written [][]int64) (sum int) {
	for _, at := range written {
		sum += len(at)
	}
	return sum
}

// writtenBytes returns the size of a file, and where it has bytes that are not 0: of many, every so manieth.
func writtenBytes(path string) (size int64, at []int64, err error) {
	err = blocks(path, func(offset int64, block []byte) error {
		size = offset + int64(len(block))
		for i, b := range block {
			if b != 0 {
				at = append(at, offset+int64(i))
			}
		}
		return nil
	})
	return size, at, err
}

// blocks calls f with a file, block by block.
func blocks(path string, f func(offset int64, block []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	block := make([]byte, 64<<10)
	for offset := int64(0); ; {
		n, err := io.ReadFull(file, block)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return err
		}
		if err := f(offset, block[:n]); err != nil {
			return err
		}
		if err != nil {
			return nil
		}
		offset += int64(n)
	}
}

// copyDirectory copies files, and leaves holes where there are zeros: some stores make large files.
func copyDirectory(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return copyFile(target, path)
	})
}

func copyFile(to, from string) (err error) {
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	zeros := make([]byte, 64<<10)
	var size int64
	err = blocks(from, func(offset int64, block []byte) error {
		size = offset + int64(len(block))
		if bytes.Equal(block, zeros[:len(block)]) {
			return nil
		}
		_, err := file.WriteAt(block, offset)
		return err
	})
	if err != nil {
		return err
	}
	return file.Truncate(size)
}

func (d damage) apply(dir string) error {
	path := filepath.Join(dir, d.File)
	if d.Flip == 0 {
		return os.Truncate(path, d.At)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = file.ReadAt(b, d.At)
	if err == nil {
		b[0] ^= d.Flip
		_, err = file.WriteAt(b, d.At)
	}
	return errors.Join(err, file.Close())
}

// damageJob tries damages and says what came of each.
func (s *suite) damageJob(j job, say func(string)) error {
	e := &env{suite: s}
	l := e.damageLedger()
	if err := l.load(filepath.Join(j.Dir, "ledger")); err != nil {
		return err
	}
	for n, d := range j.Damages[j.From:] {
		e.dir = filepath.Join(j.Dir, fmt.Sprintf("damaged-%d", j.From+n))
		if err := errors.Join(copyDirectory(e.dir, filepath.Join(j.Dir, "intact")), d.apply(e.dir)); err != nil {
			return err
		}
		timer := time.AfterFunc(damagePatience, func() { say("finding crash it hangs"); say("next"); exit() })
		for _, finding := range e.findings(l) {
			say("finding " + strings.ReplaceAll(finding, "\n", " "))
		}
		timer.Stop()
		say("next")
		if err := os.RemoveAll(e.dir); err != nil {
			return err
		}
	}
	return nil
}

// findings opens a damaged directory, reads all ids, and says what was wrong, each with its kind as the first word.
func (e *env) findings(l *ledger) (findings []string) {
	defer func() {
		if v := recover(); v != nil {
			findings = append(findings, fmt.Sprintf("crash panic: %v", v))
		}
	}()
	if e.open() != nil {
		return nil
	}
	var refused bool
	var wrong, lost error
	for i, id := range l.ids {
		got, found, err := e.st.Get(id)
		if err != nil {
			refused = true
			continue
		}
		if found {
			if _, err := versionOf(id, got, l.sizes); err != nil {
				wrong = fmt.Errorf("%q: %w", id, err)
				continue
			}
		}
		if _, err := l.judge(i, l.of[i].acked.Load(), got, found); err != nil {
			lost = err
		}
	}
	if err := e.st.Close(); err != nil {
		refused = true
	}
	if wrong != nil {
		findings = append(findings, "wrong "+wrong.Error())
	}
	if lost != nil && !refused { // an error that the caller has seen says that something is missing
		findings = append(findings, "lost "+lost.Error())
	}
	return findings
}
