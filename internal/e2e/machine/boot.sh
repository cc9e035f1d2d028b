# SPDX-License-Identifier: GPL-2.0-or-later
# Run by sh as the first process of new namespaces: makes a machine's file system at the empty
# directory $1 from the tree $2, which stays as it is, and becomes its systemd. Further arguments are pairs: a file
# or directory, and where the machine shall have it.
set -eu
umask 022
root=$1 tree=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$root/upper,workdir=$root/work" overlay "$root/root"
root=$root/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for device in null zero full random urandom tty; do
	: >"$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
while [ $# -gt 0 ]; do
	if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")" && : >"$root$2"; fi
	mount --rbind "$1" "$root$2"
	shift 2
done
echo machine >"$root/etc/hostname"
printf '127.0.0.1 localhost machine\n::1 localhost\n' >"$root/etc/hosts"
# What a kernel of somebody else has to offer is no business of the machine. And nothing comes about in it, such as a backup of
# dpkg's files, because it is midnight.
for unit in dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount getty.target \
	timers.target; do
	ln -s /dev/null "$root/etc/systemd/system/$unit"
done
mkdir "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
umount -l mnt/old
rmdir mnt/old
exec env -i container=remsim PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
