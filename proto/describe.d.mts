/** Each an encoded google.protobuf.FileDescriptorProto: `file` of `folder`, then all that it imports. @throws Error a file is missing or wrong */
export function describe(folder: string, file: string): { name: string; bytes: Uint8Array }[]
