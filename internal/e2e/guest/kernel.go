// SPDX-License-Identifier: GPL-2.0-or-later

package guest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// modules are what a guest needs of a kernel besides what is built in: a host controller without hardware, and the host's
// file system by 9p over virtio.
var modules = []string{"virtio_pci", "9pnet_virtio", "9p", "vhci-hcd"}

// A kernel is a kernel of Debian's, unpacked.
type kernel struct {
	image   string   // uncompressed, which boots fastest
	modules []string // files, in the order in which to load them
}

// getKernel returns Debian's current kernel, from the cache if it is there. Processes that
// want it at the same time wait for one another.
func getKernel(cache string) (kernel, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return kernel{}, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return kernel{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return kernel{}, err
	}
	pkg, err := currentPackage(cache)
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(cache, pkg)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := unpack(cache, pkg, dir); err != nil {
			return kernel{}, err
		}
	}
	k := kernel{image: filepath.Join(dir, "vmlinux")}
	k.modules, err = loadOrder(filepath.Join(dir, "lib/modules"))
	return k, err
}

// currentPackage returns the name of the package that linux-image-amd64 depends on; without apt's lists
// the newest that was unpacked.
func currentPackage(cache string) (string, error) {
	out, err := exec.Command("apt-cache", "depends", "linux-image-amd64").Output()
	if m := regexp.MustCompile(`Depends: (linux-image-[0-9]\S*-amd64)`).FindSubmatch(out); m != nil {
		return string(m[1]), nil
	}
	have, _ := filepath.Glob(filepath.Join(cache, "linux-image-*-amd64"))
	if len(have) > 0 {
		return filepath.Base(have[len(have)-1]), nil
	}
	return "", fmt.Errorf("guest: apt-cache knows no linux-image-amd64 (%w); is this Debian, and did apt-get update run?", errors.Join(err, errors.ErrUnsupported))
}

// unpack downloads a kernel's package and puts image and modules into dir.
func unpack(cache, pkg, dir string) error {
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// The name is one of apt-cache: apt-get would take a pattern, and fetch all that match.
	if err := run(work, "apt-get", "download", pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("guest: %s: apt-get has downloaded %q", pkg, debs)
	}
	if err := run(work, "dpkg-deb", "-x", debs[0], "tree"); err != nil {
		return err
	}
	tree := filepath.Join(work, "tree")
	images, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("guest: %s has the kernels %q", pkg, images)
	}
	if err := uncompressKernel(images[0], filepath.Join(work, "vmlinux")); err != nil {
		return err
	}
	files, err := findModules(filepath.Join(tree, "lib/modules"))
	if err != nil {
		return err
	}
	keep := filepath.Join(work, "keep")
	order, err := dependencies(files)
	if err != nil {
		return err
	}
	for _, file := range order {
		to := filepath.Join(keep, "lib/modules", filepath.Base(file))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.Rename(file, to); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(work, "vmlinux"), filepath.Join(keep, "vmlinux")); err != nil {
		return err
	}
	return os.Rename(keep, dir)
}

// run runs a program of Debian's in dir.
func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("guest: %s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// uncompressKernel writes the ELF file that a bzImage has inside.
func uncompressKernel(from, to string) error {
	image, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		magic   string
		program []string
	}{
		{"\xfd7zXZ\x00", []string{"xz", "-dc", "--single-stream"}},
		{"\x28\xb5\x2f\xfd", []string{"zstd", "-dcq"}},
		{"\x02\x21\x4c\x18", []string{"lz4", "-dcq"}},
		{"\x1f\x8b\x08", []string{"gzip", "-dcq"}},
	} {
		at := bytes.Index(image, []byte(c.magic))
		if at < 0 {
			continue
		}
		cmd := exec.Command(c.program[0], c.program[1:]...)
		cmd.Stdin = bytes.NewReader(image[at:])
		out, err := cmd.Output() // that something follows is an error to some
		if !bytes.HasPrefix(out, []byte(elf.ELFMAG)) {
			if err != nil {
				return fmt.Errorf("guest: %s: %w", c.program[0], err)
			}
			continue
		}
		return os.WriteFile(to, out, 0o644)
	}
	return fmt.Errorf("guest: %s has no kernel inside that xz, zstd, lz4 or gzip have compressed", from)
}

// findModules returns the files of a tree's modules by their names, which have "_" for "-". Those that
// xz has compressed are uncompressed.
func findModules(tree string) (map[string]string, error) {
	files := map[string]string{}
	wanted := regexp.MustCompile(`/(virtio|9p|netfs|fscache|usb|vhci)[^/]*\.ko(\.xz)?$|/kernel/(lib|crypto|net/9p|fs/netfs)/.*\.ko(\.xz)?$`)
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !wanted.MatchString(path) {
			return err
		}
		if plain, ok := strings.CutSuffix(path, ".xz"); ok {
			if err := run("", "xz", "-d", path); err != nil {
				return err
			}
			path = plain
		}
		files[moduleName(path)] = path
		return nil
	})
	return files, err
}

func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}

// loadOrder returns the modules below a directory in the order in which they are to be loaded.
func loadOrder(tree string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(tree, "*.ko"))
	if err != nil {
		return nil, err
	}
	byName := map[string]string{}
	for _, f := range files {
		byName[moduleName(f)] = f
	}
	return dependencies(byName)
}

// dependencies returns the files of modules, each after those that it depends on.
func dependencies(files map[string]string) (order []string, err error) {
	done := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if done[name] {
			return nil
		}
		done[name] = true
		file, ok := files[name]
		if !ok {
			return fmt.Errorf("guest: the kernel has no module %s", name)
		}
		depends, err := moduleDepends(file)
		if err != nil {
			return err
		}
		for _, d := range depends {
			if err := visit(d); err != nil {
				return fmt.Errorf("%w, which %s needs", err, name)
			}
		}
		order = append(order, file)
		return nil
	}
	for _, m := range modules {
		if err := visit(m); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDepends returns what a module says that it depends on.
func moduleDepends(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("guest: %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("guest: %s: no section .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("guest: %s: %w", file, err)
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
