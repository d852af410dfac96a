/** `node serve-boot.ts IMAGE_DIR ADDRESS`: the boot server by itself, for tests that run it in the lab's namespace. */
import { serveBoot } from '../../../fleet/boot/boot-server.ts'

const [imageDir = '', host = ''] = process.argv.slice(2)
await serveBoot({ imageDir, host, port: 8080, controller: `${host}:9341`, log: (message, fields) => console.log(message, JSON.stringify(fields)) })
console.log('ready')
