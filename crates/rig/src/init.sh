# What runs before systemd in the namespaces of a host. Arguments: the root's lower directory, the
# host's directory, its name, and the directory that all hosts share.
set -eu
lower=$1 home=$2 name=$3 shared=$4
root=$home/root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$home/upper,workdir=$home/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
# Settings of the kernel are those of all hosts, and only the network's are a host's own.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount --bind "$home/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -o remount,ro,bind "$root/proc/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
while read -r node major minor; do
    mkdir -p "$root/dev/${node%/*}"
    mknod -m 666 "$root/dev/$node" c "$major" "$minor"
done <<NODES
./null 1 3
./zero 1 5
./full 1 7
./random 1 8
./urandom 1 9
./tty 5 0
./fuse 10 229
net/tun 10 200
NODES
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
touch "$root/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cp "$home/boot_id" "$root/run/rig-boot-id"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/srv/rig"
mount --bind "$shared" "$root/srv/rig"
hostname "$name"
cd "$root"
pivot_root . .
umount -l .
exec chroot . /usr/bin/env -i container=evenkeel-rig PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --show-status=no
