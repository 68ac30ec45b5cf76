//! The library that Spark's JVMs load: RayManager and data path, behind `org.sparkray.Native` and its neighbours.
//!
//! Every export converts its arguments, calls safe code, and converts the result, inside one [`guard::guard`].
#![allow(unsafe_code, reason = "exports of a JNI library are unsafe attributes")]
#![allow(unreachable_pub, reason = "Java finds exports by their names")]

mod columns;
pub mod error;
mod feed;
pub mod guard;
pub mod handles;
mod held_blocks;
mod manager;
mod requests;
mod store_access;
mod table;
mod table_block;
mod table_schemas;

use std::ffi::c_void;

use jni::JavaVM;
use jni::sys::{JNI_ERR, JNI_VERSION_1_8, jint};

/// Called by Java when it loads the library.
///
/// # Safety
/// `vm` is null or the running JVM's own pointer.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn JNI_OnLoad(vm: *mut jni::sys::JavaVM, _reserved: *mut c_void) -> jint {
    if vm.is_null() {
        return JNI_ERR;
    }
    // SAFETY: it is not null, and the caller is the JVM, which hands over its own pointer.
    let vm = unsafe { JavaVM::from_raw(vm) };
    match vm.attach_current_thread(guard::remember_classes) {
        Ok(()) => JNI_VERSION_1_8,
        Err(_) => JNI_ERR,
    }
}
