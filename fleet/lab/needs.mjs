// Debian packages that the image build and the lab need, with the file that proves each. Plain .mjs: read under any Node >= 20 by
// `npm start` and `npm test` before anything is installed. image/profile.ts checks the build's part again, for who calls it alone.

/** @type {ReadonlyArray<{need: string, package: string, why: string, for: 'image' | 'local' | 'pxe'}>} */
export const DEBIAN_PACKAGES = [
  { need: '/usr/bin/gcc', package: 'gcc', why: 'compiles /init of the image', for: 'image' },
  { need: '/usr/lib/x86_64-linux-gnu/libc.a', package: 'libc6-dev', why: 'links /init statically', for: 'image' },
  { need: '/usr/bin/strip', package: 'binutils', why: 'takes the debugging symbols out of Node', for: 'image' },
  { need: '/usr/sbin/bird', package: 'bird2', why: 'the routing daemon', for: 'local' },
  { need: '/bin/ip', package: 'iproute2', why: 'network namespaces, bridges and addresses', for: 'local' },
  { need: '/usr/lib/x86_64-linux-gnu/libatomic.so.1', package: 'libatomic1', why: 'a library of Node 26', for: 'local' },
  { need: '/usr/bin/setpriv', package: 'util-linux', why: 'ends the devices when the lab ends', for: 'local' },
  { need: '/usr/sbin/dnsmasq', package: 'dnsmasq-base', why: 'DHCP for network boot', for: 'pxe' },
  { need: '/usr/bin/qemu-system-x86_64', package: 'qemu-system-x86', why: 'the machines that boot over the network', for: 'pxe' },
  { need: '/usr/lib/ipxe/qemu/pxe-virtio.rom', package: 'ipxe-qemu', why: 'the boot ROM of their network cards', for: 'pxe' },
]

/**
 * What of it is missing on this machine. "pxe" includes all the rest, "local" leaves out image and pxe.
 * @param {'local' | 'pxe'} boot
 * @param {(file: string) => boolean} exists
 */
export function missingPackages(boot, exists) {
  return DEBIAN_PACKAGES.filter((one) => (boot === 'pxe' || one.for === 'local') && !exists(one.need))
}
